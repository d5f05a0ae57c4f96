//! PLACEHOLDER, for compilation only, until the agreement of clocks stands here: its owner overwrites this file.
#![allow(missing_docs)]
use dsv2_core::*; use serde::{Serialize,Deserialize};
#[derive(Clone,Debug,Default)] pub struct BerkeleyConfig {}
#[derive(Clone,Debug,PartialEq,Serialize,Deserialize)] pub enum ClockMessage { X }
pub enum ClockInput { Members(Vec<ServerName>), Coordinator{leads:bool,epoch:u64}, ClientMessage, LinkDown(ServerName), Message{from:ServerName,message:ClockMessage}, Wake }
#[derive(Debug)] pub enum ClockEffect { Send{to:ServerName,message:ClockMessage}, Other }
pub struct ClockStatus { pub offset_us:i64, pub error_bound_us:Option<u64>, pub slewing:bool }
pub trait ClockSync: Machine<Input=ClockInput,Effect=ClockEffect> { fn status(&self,now:Now)->ClockStatus; fn wall(&self,now:Now)->Wall; }
#[derive(Debug)] pub struct Berkeley;
impl Berkeley { pub fn new(_:ServerName,_:BerkeleyConfig,_:Now)->Self{Self} }
impl Machine for Berkeley { type Input=ClockInput; type Effect=ClockEffect; fn step(&mut self,_:Now,_:ClockInput,_:&mut Vec<ClockEffect>){} fn deadline(&self)->Option<Mono>{None} }
impl ClockSync for Berkeley { fn status(&self,_:Now)->ClockStatus{ClockStatus{offset_us:0,error_bound_us:None,slewing:false}} fn wall(&self,now:Now)->Wall{now.wall} }
